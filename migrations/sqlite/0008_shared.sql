-- What both databases need to keep the same promises with the same statements.

-- Error rows of a chunk that is done: a retry finds those that have any without reading their results.
ALTER TABLE chunk ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
UPDATE chunk SET failed = json_extract(result, '$.failed') WHERE result IS NOT NULL;

-- Since when a job that ended long ago is being removed; nobody sees it any more.
ALTER TABLE job ADD COLUMN purged_at INTEGER;

CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX job_purged ON job (id) WHERE purged_at IS NOT NULL;
