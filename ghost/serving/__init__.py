"""What runtimes make of a model's state: which sizes they take, what a sequence costs there, how many fit."""
