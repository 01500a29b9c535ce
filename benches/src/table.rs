//! Markdown tables.

use std::fmt::{Display, Formatter};

/// A table with its heading and what is to be said below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    heading: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    pub fn new(heading: impl Into<String>, columns: &[&str]) -> Table {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Table { heading: heading.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// A line below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "### {}\n", self.heading)?;
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        let rule = self.columns.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" });
        writeln!(f, "| {} |", rule.collect::<Vec<_>>().join(" | "))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_markdown() {
        let mut table = Table::new("Title", &["what", "ms"]);
        assert!(table.is_empty());
        table.row(["a".to_owned(), "1.0".to_owned()]);
        table.note("Below.");
        let expected = "### Title\n\n| what | ms |\n| --- | ---: |\n| a | 1.0 |\n\nBelow.\n";
        assert_eq!(table.to_string(), expected);
    }
}
