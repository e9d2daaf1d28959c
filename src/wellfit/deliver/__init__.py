"""What leaves the house: a trained run made use of. Nothing here trains, and nothing in a run folder is executed."""
