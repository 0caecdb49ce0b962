"""The Open Inference Protocol, version 2: over REST, and over gRPC as an extra."""
