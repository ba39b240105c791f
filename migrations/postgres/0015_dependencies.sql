-- That the parent completed, once it is removed; until then its own row says so.
ALTER TABLE job_dependency ADD COLUMN completed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX job_dependency_parent ON job_dependency (parent_id);
