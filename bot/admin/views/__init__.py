"""What pages show, as values and marks: charts, differences, live figures. Knows no HTTP but `live`."""
