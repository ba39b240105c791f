-- What is known of a chunk that has a runner to itself, because its runner died under it; none while it runs among others.
ALTER TABLE chunk ADD COLUMN isolation TEXT;
