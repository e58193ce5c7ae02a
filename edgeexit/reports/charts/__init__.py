"""Charts as inline SVG: no script, no image, colours by class from the page's style sheet."""
