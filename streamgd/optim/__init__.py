"""How theta moves: stochastic and full-batch optimizers, learning-rate schedules."""
