-- How far a job is from an earlier one, as JSON; NULL until it was compared.
ALTER TABLE job ADD COLUMN drift TEXT;
