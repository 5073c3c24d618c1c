"""Privacy attacks on what a site releases, each with controls, a bound and a verdict."""
