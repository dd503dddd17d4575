"""What trained models are good for: a `jaxgan.model.Model` and arrays in, arrays out."""
