"""What members may ask for, and how their waiting messages stand: `/quota`, `/queue`, `/config limits`."""
