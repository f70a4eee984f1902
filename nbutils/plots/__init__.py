"""Every figure, drawn from a DataFrame; the teaching diagrams; the search box."""
