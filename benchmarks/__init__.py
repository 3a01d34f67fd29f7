"""Commands that print figures. They gate nothing; README and docs quote them with the command."""
