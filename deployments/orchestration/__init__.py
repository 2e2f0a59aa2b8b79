"""The parts of a conductor: the job run, its lease, the denoiser pool and the helpers around them."""
