"""Commands of the command line besides fit, validate, test and predict."""
