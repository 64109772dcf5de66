"""What optimizers are tried on: functions with known minima, and small real tasks."""
