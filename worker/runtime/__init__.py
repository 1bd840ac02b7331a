"""What runs workloads: one adapter per technology behind the `Runtime` protocol of `base`."""
