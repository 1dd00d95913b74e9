//! Columns of text for people.

use std::fmt;

use anstyle::Style;

use super::style::{FAINT, painted};

/// A table: a line of headings, then lines whose columns stand below each other.
#[derive(Debug)]
pub(crate) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a line: each cell on one line, with its style.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = self.headings.iter().map(|heading| ((*heading).to_owned(), FAINT)).collect();
        let lines: Vec<&Vec<(String, Style)>> = std::iter::once(&headings).chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|(text, _)| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        for line in &lines {
            // Spaces come before the next cell that says something, so that no line ends in them.
            let mut spaces = 0;
            for ((text, style), width) in line.iter().zip(&widths) {
                if !text.is_empty() {
                    write!(f, "{:spaces$}{}", "", painted(*style, text))?;
                    spaces = 0;
                }
                spaces += 2 + width - text.chars().count();
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_no_line_ends_in_spaces() {
        let mut table = Table::new(&["NAME", "AGE", "NOTE"]);
        let plain = |text: &str| (text.to_owned(), Style::new());
        table.row(["örjan", "1", ""].map(plain));
        table.row(["b", "", "x"].map(plain));
        let text = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert_eq!(text, "NAME   AGE  NOTE\nörjan  1\nb           x\n");
    }
}
