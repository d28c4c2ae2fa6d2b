// The program in the one image that the harness makes itself.
module pod

go 1.24.0
