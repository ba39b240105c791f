-- What the predictions of a job are like, merged over its committed chunks.
ALTER TABLE job ADD COLUMN summary TEXT NOT NULL DEFAULT '{}';

-- The review prefix, with a slash at its end: claimed as the output prefix is.
ALTER TABLE job ADD COLUMN review TEXT;

CREATE INDEX job_review ON job (review) WHERE finished_at IS NULL AND review IS NOT NULL;
