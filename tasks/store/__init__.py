"""What a store holds: runs shown, compared, cleared up."""
