//! `resource.Quantity`: decimal and binary suffixes, exact, canonical text.
