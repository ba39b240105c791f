-- The trace that a job belongs to, as the header traceparent writes it.
ALTER TABLE job ADD COLUMN trace TEXT;

-- What a scrape reads of unfinished jobs, so that it opens no row: those hold long documents.
CREATE INDEX job_backlog ON job (finished_at, ending, started_at, created_at, pending, running, chunks_done) WHERE finished_at IS NULL;
