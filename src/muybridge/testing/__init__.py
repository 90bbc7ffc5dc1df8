"""Tools that prove a port equal to the code it was ported from."""
