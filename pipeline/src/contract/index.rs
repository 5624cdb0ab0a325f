//! See the port's doc comment for the promises that are checked here.
