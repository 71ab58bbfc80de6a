"""Stage answering: remixed rows and claims, in the direction of answering."""
