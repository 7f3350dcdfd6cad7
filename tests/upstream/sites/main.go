// What the runs of several sites on one machine are made with.
//
//	sites wan -tap NAME,NAME,...     a network between TAP devices that delays, drops, narrows and cuts; told what by its input
//	sites load -site 3 ...           writes at a fixed rate through etcd's API, and tells how long each took
//	sites follow -count 500 ...      tells when the last of so many keys had arrived
//
// All times are of one machine's clock.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	commands := map[string]func([]string) error{"wan": wan, "load": load, "follow": follow}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: sites wan|load|follow FLAGS")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "sites %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// One line of JSON for whoever started this.
func tell(what any) error {
	return json.NewEncoder(os.Stdout).Encode(what)
}
