package api

import "net/http"

func (s *Server) erase(q *request) (any, error) {
	id, err := q.id()
	if err == nil {
		err = q.parameters().done()
	}
	if err != nil {
		return nil, err
	}
	if s.o.Eraser == nil {
		return nil, &badRequest{http.StatusNotImplemented, "this server cannot erase"}
	}
	if !q.who.Erase {
		return nil, &badRequest{http.StatusForbidden, "a token with the right `erase` is needed; or `waybill-fleet erase TENANT/DEVICE` on the store's machine"}
	}
	s.o.Log.Warn("erasing what a device told", "tenant", id.Tenant, "device", id.Device, "by", q.who.Tenant)
	return s.o.Eraser.Erase(q.Context(), id)
}
