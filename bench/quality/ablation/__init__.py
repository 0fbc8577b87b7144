"""The paper's studies: what each trains (studies, plan), run by run (runner, measure), set side by side (report)."""
