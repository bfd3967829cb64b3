package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func quotaCommand() *cobra.Command {
	var (
		conn connection
		out  *format
	)
	cmd := &cobra.Command{
		Use:   "quota",
		Short: "Show what is used of each limit, and which nodes hold it",
		Long: `Quota shows each limit of the QuotaPolicies that are in effect, and of one that counts by caller or header each count
that is in use. GRANTED is what nodes have spent of this window, or hold to spend; of a bucket, what is missing from it.
HOLDERS are the nodes with leases, and how many requests were granted to each in them.`,
		Example: `  sennit quota
  sennit quota -o json | jq '.[] | select(.granted >= .requests)'`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			used, err := c.Quota(cmd.Context())
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), used)
			}
			return showQuota(cmd.OutOrStdout(), used, time.Now())
		},
	}
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// showQuota prints limits and their use for people.
func showQuota(w io.Writer, used []report.Quota, now time.Time) error {
	if len(used) == 0 {
		_, err := fmt.Fprintln(w, "nothing is limited (a QuotaPolicy does it: see docs/how-to/limit-requests.md)")
		return err
	}
	rows := [][]string{{"LIMIT", "ALLOWS", "CALLER", "VALUE", "GRANTED", "RESETS IN", "HOLDERS"}}
	for _, q := range used {
		allows := fmt.Sprintf("%d/%s", q.Requests, q.Per)
		if q.Burst > 0 {
			allows += fmt.Sprintf(", burst %d", q.Burst)
		}
		resets := "-"
		if q.Resets.After(now) {
			resets = until(q.Resets, now)
		}
		var holders []string
		for _, h := range q.Holders {
			holders = append(holders, firstOf(h.Node, "(others)")+"="+strconv.FormatInt(h.Tokens, 10))
		}
		rows = append(rows, []string{q.Limit, allows, orDash(q.Caller), orDash(q.Value), strconv.FormatInt(q.Granted, 10), resets, orDash(strings.Join(holders, ","))})
	}
	return (&table{out: w}).print(rows)
}
