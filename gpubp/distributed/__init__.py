"""What MPI and NCCL are used for: one network trained by several processes, each on its slice of every batch."""
