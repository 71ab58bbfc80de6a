"""Stage evaluate: F1 of the adapted model beside the unadapted one."""
