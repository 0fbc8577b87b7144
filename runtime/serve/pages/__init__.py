"""The pages as HTML, made from elements (see `queryopt.runtime.markup`): no text of a file name is ever markup."""
