"""TensorRT and TensorRT-RTX: one API for all versions, builds, the cache of plans, and the engine that runs one."""
