//! Links in the documentation lead somewhere: relative paths exist, and
//! anchors are headings. Addresses on the web are not asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::stage::Tally;

/// Checks every Markdown file that git tracks or would track.
pub(crate) fn check(root: &Path) -> Result<Tally> {
    let files = tracked(root, "*.md")?;
    let mut pages = BTreeMap::new();
    for file in &files {
        let text = fs::read_to_string(root.join(file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        pages.insert(file.clone(), Page::read(&text));
    }
    let mut broken = Vec::new();
    for (file, page) in &pages {
        for (line, link) in &page.links {
            if let Some(problem) = problem(root, &pages, file, link) {
                broken.push(format!("{}:{line}: {link}: {problem}", file.display()));
            }
        }
    }
    for line in &broken {
        println!("  {line}");
    }
    let links: usize = pages.values().map(|page| page.links.len()).sum();
    println!("  {links} links in {} files", pages.len());
    ensure!(broken.is_empty(), "{} links lead nowhere", broken.len());
    Ok(Tally::ONE)
}

/// Files below `root` that git tracks, or would if they were added.
pub(crate) fn tracked(root: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            pattern,
        ])
        .current_dir(root)
        .output()
        .context("git does not start")?;
    ensure!(output.status.success(), "git ls-files failed");
    let mut files: Vec<PathBuf> = String::from_utf8(output.stdout)?
        .lines()
        .map(PathBuf::from)
        .filter(|file| root.join(file).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

fn problem(
    root: &Path,
    pages: &BTreeMap<PathBuf, Page>,
    from: &Path,
    link: &str,
) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        from.to_owned()
    } else {
        match resolve(from, path) {
            Some(target) => target,
            None => return Some("leads out of the repository"),
        }
    };
    if !root.join(&target).exists() {
        return Some("no such file");
    }
    if anchor.is_empty() {
        return None;
    }
    match pages.get(&target) {
        Some(page) if page.anchors.contains(anchor) => None,
        Some(_) => Some("no such heading"),
        None => None,
    }
}

/// `path` as seen from the file `from`; `None` if it climbs above the root.
fn resolve(from: &Path, path: &str) -> Option<PathBuf> {
    let mut target = PathBuf::new();
    let above = from.parent().unwrap_or(Path::new(""));
    for part in above.join(path).components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !target.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(target)
}

/// What a page offers and what it points at.
struct Page {
    anchors: BTreeSet<String>,
    links: Vec<(usize, String)>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self {
            anchors: BTreeSet::new(),
            links: Vec::new(),
        };
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if fenced {
                continue;
            }
            if let Some(heading) = heading(line) {
                page.add_anchor(&slug(heading));
            }
            for link in links(&without_code(line)) {
                page.links.push((number + 1, link));
            }
        }
        page
    }

    /// The second heading of the same text gets `-1`, and so on.
    fn add_anchor(&mut self, slug: &str) {
        let mut anchor = slug.to_owned();
        let mut repeat = 0;
        while !self.anchors.insert(anchor.clone()) {
            repeat += 1;
            anchor = format!("{slug}-{repeat}");
        }
    }
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len() && text.starts_with(' ')).then(|| text.trim())
}

/// The anchor that GitHub and its like give a heading.
fn slug(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter if letter.is_alphanumeric() => Some(letter),
            _ => None,
        })
        .collect()
}

/// The line with what stands between backticks taken out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Targets of `[text](target)` and `[text]: target`.
fn links(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else {
            break;
        };
        // A title may follow the target.
        let target = target.split_whitespace().next().unwrap_or("");
        if !target.is_empty() {
            found.push(target.trim_matches(['<', '>']).to_owned());
        }
        rest = after;
    }
    if let Some((label, target)) = line.split_once("]: ")
        && label.starts_with('[')
    {
        found.push(target.trim().trim_matches(['<', '>']).to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code() {
        let page = Page::read(
            "# A b: `c`?\n[x](docs/y.md#z) and `[no](code)`\n```\n[no](fence)\n```\n[ref]: ../up.md\n# A b: c\n",
        );
        let links: Vec<&str> = page.links.iter().map(|(_, link)| link.as_str()).collect();
        assert_eq!(links, ["docs/y.md#z", "../up.md"]);
        assert!(page.anchors.contains("a-b-c") && page.anchors.contains("a-b-c-1"));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_told() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("docs/a.md"), "# One\n").unwrap();
        let page = |text| Page::read(text);
        let pages = BTreeMap::from([
            (PathBuf::from("docs/a.md"), page("# One\n")),
            (PathBuf::from("b.md"), page("")),
        ]);
        let told = |link| problem(root.path(), &pages, Path::new("docs/b.md"), link);
        assert_eq!(told("a.md#one"), None);
        assert_eq!(told("../docs/a.md"), None);
        assert_eq!(told("https://example.com/x"), None);
        assert_eq!(told("a.md#two"), Some("no such heading"));
        assert_eq!(told("c.md"), Some("no such file"));
        assert_eq!(told("../../c.md"), Some("leads out of the repository"));
    }
}
