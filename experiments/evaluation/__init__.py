"""What an evaluation is made of: contenders, comparison, tables, figures, report."""
