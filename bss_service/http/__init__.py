"""Internal. HTTP: the application with its routes, bodies and problems, tokens and limits, and the server around it."""
