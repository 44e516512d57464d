"""Search for the gains of balance reflexes, before anything is learned by gradients."""
