"""What all runs share, whoever carries them out: settings, problem, order of examples, history."""
