"""What only a GAN needs: losses, penalties, augmentation, metrics of a step, diagnostics."""
