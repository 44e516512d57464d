"""Looking at motion: what is shown, how muscles and forces look, MuJoCo's window and the web page."""
