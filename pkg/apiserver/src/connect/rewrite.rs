//! Links in proxied answers: what a service calls `/x` is `…/proxy/x` to who comes through the API
//! (`k8s.io/apimachinery/pkg/util/proxy/transport.go`).

/// Attributes that hold a link, as upstream's table of elements has them.
const LINKS: [&str; 10] =
    ["action", "background", "cite", "classid", "codebase", "data", "formaction", "href", "icon", "src"];

/// A link as the proxy's client must write it. `host` is what the client calls the API, `backend` what the proxy
/// called the service; links elsewhere and relative ones stay as they are.
pub fn link(url: &str, prefix: &str, host: &str, backend: &str) -> String {
    let path = match split(url) {
        (Some(authority), path) if authority == backend || authority == host => path,
        (Some(_), _) => return url.to_owned(),
        (None, path) => path,
    };
    if !path.starts_with('/') {
        return url.to_owned();
    }
    if path.starts_with(prefix) { path.to_owned() } else { format!("{prefix}{path}") }
}

/// Authority and the rest of a URL; no authority: it names no host.
fn split(url: &str) -> (Option<&str>, &str) {
    let rest = match url.find("://") {
        Some(at) if url[..at].bytes().all(|byte| byte.is_ascii_alphanumeric()) => &url[at + 3..],
        _ => match url.strip_prefix("//") {
            Some(rest) => rest,
            None => return (None, url),
        },
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let path = if rest[end..].starts_with('/') { &rest[end..] } else { "/" };
    (Some(&rest[..end]), path)
}

/// Rewrites the links of a page; all else passes byte by byte.
pub fn page(html: &[u8], rewrite: impl Fn(&str) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(html.len() + html.len() / 8);
    let mut at = 0;
    while let Some(open) = html[at..].iter().position(|byte| *byte == b'<').map(|found| at + found) {
        if html[open..].starts_with(b"<!--") {
            let end = find(&html[open..], b"-->").map_or(html.len(), |found| open + found + 3);
            out.extend_from_slice(&html[at..end]);
            at = end;
            continue;
        }
        let end = tag_end(html, open);
        out.extend_from_slice(&html[at..open]);
        tag(&html[open..end], &rewrite, &mut out);
        at = end;
    }
    out.extend_from_slice(&html[at..]);
    out
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Behind the `>` that closes the tag; quotes may hold others.
fn tag_end(html: &[u8], open: usize) -> usize {
    let mut quote = None;
    for (offset, byte) in html[open..].iter().enumerate() {
        match (quote, byte) {
            (Some(with), byte) if with == *byte => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'>') => return open + offset + 1,
            _ => {}
        }
    }
    html.len()
}

/// Copies one tag, its links rewritten.
fn tag(tag: &[u8], rewrite: &impl Fn(&str) -> String, out: &mut Vec<u8>) {
    let mut copied = 0;
    let mut at = 1;
    while at < tag.len() {
        let Some(equals) = tag[at..].iter().position(|byte| *byte == b'=').map(|found| at + found) else { break };
        let name_at = tag[..equals].iter().rposition(|byte| byte.is_ascii_whitespace()).map_or(1, |found| found + 1);
        let name = String::from_utf8_lossy(&tag[name_at..equals]).to_ascii_lowercase();
        let (start, end, next) = value(tag, equals + 1);
        if LINKS.contains(&&*name)
            && let Ok(url) = std::str::from_utf8(&tag[start..end])
        {
            out.extend_from_slice(&tag[copied..start]);
            out.extend_from_slice(rewrite(url).as_bytes());
            copied = end;
        }
        at = next;
    }
    out.extend_from_slice(&tag[copied..]);
}

/// Where an attribute's value begins and ends, and where to go on.
fn value(tag: &[u8], at: usize) -> (usize, usize, usize) {
    match tag.get(at) {
        Some(quote @ (b'"' | b'\'')) => {
            let end = tag[at + 1..].iter().position(|byte| byte == quote).map_or(tag.len(), |found| at + 1 + found);
            (at + 1, end, (end + 1).min(tag.len()))
        }
        _ => {
            let stop = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'>';
            let end = tag[at..].iter().position(stop).map_or(tag.len(), |found| at + found);
            (at, end, end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/services/b/proxy";

    fn to(url: &str) -> String {
        link(url, PREFIX, "api.example:6443", "10.0.0.1:80")
    }

    #[test]
    fn links_within_the_service_get_the_prefix() {
        assert_eq!(to("/x/?q=1"), format!("{PREFIX}/x/?q=1"));
        assert_eq!(to("http://10.0.0.1:80/x"), format!("{PREFIX}/x"));
        assert_eq!(to("https://api.example:6443/x"), format!("{PREFIX}/x"));
        assert_eq!(to(&format!("{PREFIX}/x")), format!("{PREFIX}/x"));
        for elsewhere in ["x/y", "https://other.example/x", "//other.example/x", "#top", ""] {
            assert_eq!(to(elsewhere), elsewhere);
        }
    }

    #[test]
    fn pages_keep_everything_but_their_links() {
        let html = b"<p class=\"/a\">/x</p><!-- <a href=\"/no\"> --><A x='>' href='/y'>y</a><img src=/z><a href=z>";
        let rewritten = page(html, to);
        let expected = format!(
            "<p class=\"/a\">/x</p><!-- <a href=\"/no\"> --><A x='>' href='{PREFIX}/y'>y</a><img src={PREFIX}/z><a href=z>"
        );
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
        for broken in ["<", "<a href", "<a href=", "<a href=\"/x", "<!-- x", "a > b"] {
            assert!(page(broken.as_bytes(), |url| url.to_owned()) == broken.as_bytes(), "{broken}");
        }
    }
}
