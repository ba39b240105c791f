-- How much of what a job with only_new read is in the record of its schedule: 0 nothing, 1 some of it perhaps, 2 all of it. That only_new is
-- 2 said the last; now it says no more than 1.
ALTER TABLE job ADD COLUMN covered BIGINT NOT NULL DEFAULT 0 CHECK (covered IN (0, 1, 2));
UPDATE job SET covered = 2 WHERE only_new = 2;
