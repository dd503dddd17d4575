"""Uses of trained models. Each function takes a `jaxgan.model.Model` and arrays."""
