"""Parts of the page that run code in the browser: modules with their scripts and styles beside them."""
