"""What the command lines share: arguments, configs, the preflight, mistakes in one line."""
