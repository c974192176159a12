"""Internal. HTTP: the application and its routes, bodies and problems, tokens and limits, and the server around them."""
