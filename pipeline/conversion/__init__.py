"""What STEP 0 is made of: reading a job, converting one trial, files, workers, bookkeeping."""
