"""Where every accelerator-second goes."""
