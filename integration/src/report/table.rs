//! Tables of text with columns as wide as they have to be.

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; cells that are missing are empty, those beyond the last column are left out.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Its text, each line indented by two spaces.
    #[must_use]
    pub fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (name, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(index));
                cells.map(|cell| width(cell)).chain([width(name)]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            let mut line = String::new();
            for (index, ((_, align), wide)) in self.columns.iter().zip(&widths).enumerate() {
                let cell = cells.get(index).map_or("", String::as_str);
                let padding = " ".repeat(wide - width(cell));
                line.push_str("  ");
                match align {
                    Align::Left => line.push_str(&format!("{cell}{padding}")),
                    Align::Right => line.push_str(&format!("{padding}{cell}")),
                }
            }
            line.trim_end().to_owned() + "\n"
        };
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rules: Vec<String> = widths.iter().map(|wide| "─".repeat(*wide)).collect();
        let rows = self.rows.iter().map(|row| line(row));
        [line(&names), line(&rules)].into_iter().chain(rows).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("event", Align::Left), ("ms", Align::Right)]);
        table.row(vec!["a → b".to_owned(), "12.5".to_owned()]);
        table.row(vec!["x".to_owned()]);
        assert_eq!(table.render(), "  event    ms\n  ─────  ────\n  a → b  12.5\n  x\n");
    }
}
