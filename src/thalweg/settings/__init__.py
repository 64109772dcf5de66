"""What a person gives: settings and their checks, their own code by name, and whose code may run."""
