"""What a person does: fit, check, search, demo. The command line and Python share these; each verb is one file."""
