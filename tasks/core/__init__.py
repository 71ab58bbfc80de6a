"""What every stage needs: around a stage, files, parameters, row types, processes."""
